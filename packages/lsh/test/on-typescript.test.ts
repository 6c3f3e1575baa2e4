// The tests of the native addon, again with the engine that replaces it where it cannot be loaded. The variable is read when
// the first object is made, and every test file has a process of its own. Grids of large indexes would take minutes:
// typescript-engine.test.ts compares the engines on a few instead.
process.env.MAGICPIG_ISA = 'typescript';

await import('./codes.test.js');
await import('./simhash-async.test.js');
await import('./simhash-files.test.js');
await import('./simhash-forks.test.js');
await import('./simhash-index.test.js');
await import('./simhash-segments.test.js');
await import('./simhash-tables.test.js');
await import('./simhash-vectors.test.js');
