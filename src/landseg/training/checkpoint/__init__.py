"""What a training leaves on its way and resumes from: content, random state, the store, when to publish."""
