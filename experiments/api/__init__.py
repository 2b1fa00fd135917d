"""What people's programs ask of /api/ about projects, jobs and what belongs to them."""
