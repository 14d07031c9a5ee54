"""The doctor: this machine -> what rnncc found, what is missing, the fix."""
