"""The whole run as one typed tree, and the rules across rooms. No torch."""
