"""The machine: devices, CPUs, processes, files that are written atomically, locks, signals."""
