"""Faults to throw at the real thing: a proxy that breaks connections, a stack of real processes
to break, and a workload whose truth is known, so that whatever was lost is found."""
