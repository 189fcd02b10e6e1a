"""Report of installed packages, usable devices and supported optimizers."""
