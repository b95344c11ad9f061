"""What projects written for BasicSR 1.4 import, call and override. Nothing else in the package imports it."""
