"""Numbers to SVG and HTML text: pure, without scripts, files or addresses."""
