"""Reading and writing the messages that the service and its clients share: bounds, and the spec."""
