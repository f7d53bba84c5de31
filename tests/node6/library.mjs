// Baileys 6, for tests/node/moves.mjs: a package is found from where the importing file lies.

export * from '@whiskeysockets/baileys';
