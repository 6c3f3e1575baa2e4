// The tests of key sketches again, with the engine that replaces the native addon. The variable is read when the first object is made, and
// every test file has a process of its own.
process.env.MAGICPIG_ISA = 'typescript';

await import('./key-sketch.test.js');
