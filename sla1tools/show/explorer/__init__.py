"""The sliders over a night: what they show as JSON, the widget, and the JavaScript that draws it."""
