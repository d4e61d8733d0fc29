"""When a stage ends, and how much its teacher weighs, by what was measured."""
