"""Plans by goal, one commented TOML file each."""
