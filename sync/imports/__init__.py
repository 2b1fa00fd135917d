"""What people send of runs that they import: their files."""
