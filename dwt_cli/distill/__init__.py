"""What the project is for: learning from a weaker teacher."""
