"""The processes of this machine as the project sees them: sockets, children, what runs, routes, applied views.

The surprise: `flyball.node` holds the processes themselves and lies above the project; what the project needs to reach
or start them lies here, below it.
"""
