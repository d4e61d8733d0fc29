"""What a run says of itself: metrics, progress, times, traces."""
