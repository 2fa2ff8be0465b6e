"""The part of the packaging that TOML cannot say: what is no code travels inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["dwt_cli*"]), "dwt_cli.conf", "dwt_cli.sweeps"],
    package_dir={"dwt_cli.conf": "conf", "dwt_cli.sweeps": "sweeps"},
    package_data={
        "dwt_cli": ["py.typed", "*/*.j2", "*/*.txt"],
        "dwt_cli.conf": ["*.yaml", "*/*.yaml"],
        "dwt_cli.sweeps": ["*.yaml"],
    },
)
