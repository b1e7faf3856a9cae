// Prints the shell commands that make any process started afterwards use the software GPU:
//
//   eval "$(npm run --silent software-gpu)"

import { softwareVariables } from "./gpu-environment.mjs";

for (const [name, value] of Object.entries(await softwareVariables()))
  console.log(`export ${name}='${value.replaceAll("'", "'\\''")}'`);
