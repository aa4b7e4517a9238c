"""What is tested: usage as centred log-ratios, expression on a log scale, or values as stored."""
