// For CMake of addons that use the headers: require('@magicpig/lsh/include-dir').include_dir
module.exports = { include_dir: require('node:path').join(__dirname, 'include') };
