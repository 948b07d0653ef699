"""Speed against the peers: `make bench` runs `softargmax bench`, then the fits and trainings of this folder."""
