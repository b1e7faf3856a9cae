// NumPy's seed-42 example, which the command line walks through.
export * from "../../cli/seed42.ts";
