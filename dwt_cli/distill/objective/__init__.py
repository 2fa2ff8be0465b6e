"""What the student is asked to match: the hard label, and the teacher's distribution."""
