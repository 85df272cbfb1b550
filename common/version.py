"""The version of this program; setup.cfg reads it here, and CHANGELOG.md says what each changed."""

VERSION = "0.1.0"
