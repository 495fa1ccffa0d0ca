"""What the processes of a node see of each other without asking: the shared map, its clock, its histograms."""
