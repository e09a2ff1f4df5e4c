"""The config files that come with the project, and how a config file is read and checked."""
