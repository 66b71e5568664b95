"""TEP-BFT: parallel agreement over n = 2f+1 replicas with a height-bound trusted component."""
