"""Scoring fused pictures, and the tables that show the scores."""
