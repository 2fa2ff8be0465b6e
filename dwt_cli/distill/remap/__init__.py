"""The teacher's weights as the beginning of the student's."""
