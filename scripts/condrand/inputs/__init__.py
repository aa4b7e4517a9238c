"""What a user's file holds: found, read and checked part by part; problems are collected."""
