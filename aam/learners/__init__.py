"""Learners behind one small protocol: what is fitted to some samples of a study predicts others."""
