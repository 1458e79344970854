"""The HTML pages of a run: its report (`run`), its trace (`trace`), and learning curves as SVG files (`curves`)."""
