"""What every room stands on: errors, options, identity, storage, ranks, the machine."""
