"""The console: what people see of a hub in the browser. It shows read models and passes on acts; it computes nothing."""
