"""The form of what this app's endpoints take and give, a module for each family as in api/."""
