"""The one place that names memwb's version."""

VERSION = "0.1.0"
