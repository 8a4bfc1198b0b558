"""One detector's time beside another's: layers, whole cuts, and whether the machine is at its best."""
