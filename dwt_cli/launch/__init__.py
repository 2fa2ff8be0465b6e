"""How many processes, where: local, torchrun, SLURM, a study's pool."""
