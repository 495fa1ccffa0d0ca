"""Who answers whom: the routing table compiled, made ready to serve, and exchanged for the next one."""
