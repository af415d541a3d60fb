import js from "@eslint/js";
import tseslint from "typescript-eslint";

// Model output is hostile: nothing here may parse a string as HTML or as code.
const unsafeDom = [
  {
    selector: "MemberExpression[property.name=/^(innerHTML|outerHTML|insertAdjacentHTML|srcdoc)$/]",
    message: "Build nodes with dom.ts; never parse HTML.",
  },
  {
    selector: "CallExpression[callee.property.name=/^(write|writeln|createContextualFragment)$/]",
    message: "Build nodes with dom.ts; never parse HTML.",
  },
  { selector: "NewExpression[callee.name='Function']", message: "No code from strings." },
];

export default tseslint.config(
  { ignores: ["node_modules/"] },
  js.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [...tseslint.configs.strictTypeChecked, ...tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "no-restricted-syntax": ["error", ...unsafeDom],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
    },
  },
  {
    files: ["*.mjs"],
    languageOptions: { globals: { console: "readonly", process: "readonly", URL: "readonly" } },
  },
);
