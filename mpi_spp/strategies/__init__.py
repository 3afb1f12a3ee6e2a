"""The strategies of each verb, one file each, and the choice of them for a run."""
