"""Objects in label images: runs of pixels, outlines, measurements, colors of classes."""
