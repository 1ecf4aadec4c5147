"""What every part uses: errors, image files, atomic files, image arrays, trees."""
