"""The teacher's and the student's losses, image quality, and VGG16 features."""
