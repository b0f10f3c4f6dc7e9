"""What the methods' pages show: data made by rule, recipes run over seeds, tables with intervals."""
