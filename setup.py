"""The part of the packaging that TOML cannot say: conf/ travels inside the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["dwt_cli*"]), "dwt_cli.conf"],
    package_dir={"dwt_cli.conf": "conf"},
    package_data={"dwt_cli": ["py.typed"], "dwt_cli.conf": ["*.yaml", "*/*.yaml"]},
)
