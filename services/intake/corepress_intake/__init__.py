"""Jobs from messages: requests are read, checked and opened, each exactly once."""
