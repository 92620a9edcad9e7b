"""How fast this project is, as ratios against other implementations in the same run."""
