"""What a run needs and moves on a pod, known before the first hour on its hardware."""
