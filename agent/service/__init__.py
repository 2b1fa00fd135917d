"""The agent as a service of this machine: installed, in the background, started again."""
