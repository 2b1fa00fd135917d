"""`lab-agent doctor`: what is wrong on this host or on the way to its server."""
