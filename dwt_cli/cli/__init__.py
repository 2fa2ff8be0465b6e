"""The commands: compose, check, hand over. No torch."""
